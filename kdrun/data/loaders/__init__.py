"""One file per source of data. A loader is a function that returns `Splits`.

It takes, by keyword and by these names, what it needs of the dataset config: `root` (pathlib.Path), `num_classes`,
`in_channels`, `image_size`, `train_size`, `test_size`. To add a dataset, write such a function and a YAML file that
names it.
"""

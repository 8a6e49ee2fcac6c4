"""A known defect of the field that belongs to no part: tests that rewrite what they expect.

Which test stands for which defect: docs/known_defects.md.
"""

import ast
from pathlib import Path

WRITING = {
    "write_text",
    "write_bytes",
    "write_atomically",
    "write_json",
    "dump",
    "save",
    "savefig",
    "safe_dump",
    "touch",
}


def written_beside_tests(source: str) -> list[str]:
    """Calls that write, and name a place that follows from where the test file lies."""
    tree = ast.parse(source)
    places = {"__file__"}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and places & names_in(statement.value):
            places |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and places & names_in(node)]
    return [ast.unparse(call) for call in calls if called(call) in WRITING or opens_to_write(call)]


def names_in(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def opens_to_write(call: ast.Call) -> bool:
    texts = [argument.value for argument in ast.walk(call) if isinstance(argument, ast.Constant)]
    return called(call) == "open" and any(str(text)[:1] in {"w", "a", "x"} and len(str(text)) < 4 for text in texts)


def test_no_test_writes_what_it_expects():
    """A published figure is there to be compared with, never to be brought up to date by what is compared."""
    for blessing in (
        'HERE = Path(__file__).parent\n(HERE / "expected.json").write_text(result)',
        'from pathlib import Path\njson.dump(loss, open(Path(__file__).with_suffix(".json"), "w"))',
        'HERE = Path(__file__)\ndef test():\n    with HERE.with_name("a").open("wb") as file:\n        file.write(b"")',
    ):
        assert written_beside_tests(blessing)
    assert not written_beside_tests('PUBLISHED = Path(__file__).with_name("a.yaml").read_text()')
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 60
    found = {path.name: calls for path in files if (calls := written_beside_tests(path.read_text()))}
    assert found == {}

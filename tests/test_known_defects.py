"""Known defects of the field that belong to no part: values of losses, and tests that rewrite what they expect.

Which test stands for which defect: docs/known_defects.md.
"""

import ast
from pathlib import Path

import numpy as np
import torch
from torch.testing import assert_close

from kdrun import losses


def test_similarities_have_rows_of_euclidean_length_1():
    """Two images at right angles against two alike: (1, 0) and (0, 1) against (1, 1) / sqrt 2."""
    apart, alike = torch.eye(2), torch.ones(2, 3)
    assert_close(losses.similarity_loss(apart, alike).item(), (4 - 4 / 2**0.5) / 4)


def test_the_flow_is_compared_by_squares():
    """One image, matrices that differ by 3 and 4 in one column: 25, and not 5."""
    zero, other = torch.zeros(1, 2, 2), torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    assert losses.fsp_loss(zero, other) == 25


def test_dkd_of_large_logits_is_what_its_logarithms_say():
    """Logits of 10,000 on the right class and on a wrong one, of a teacher that says the opposite."""
    student = torch.tensor([[1e4, 0.0, 3.0], [0.0, 1e4, 5.0]], requires_grad=True)
    teacher, labels, temperature = -student.detach(), torch.tensor([0, 0]), 4.0
    expected = 0.0
    for z, v in zip(student.detach().double().numpy() / 4, teacher.double().numpy() / 4, strict=True):
        (one, ours), (other, theirs) = (
            (values - np.logaddexp.reduce(values), values[1:] - np.logaddexp.reduce(values[1:])) for values in (z, v)
        )
        rest, other_rest = np.logaddexp.reduce(one[1:]), np.logaddexp.reduce(other[1:])
        tckd = np.exp(other[0]) * (other[0] - one[0]) + np.exp(other_rest) * (other_rest - rest)
        expected += tckd + 8 * (np.exp(theirs) * (theirs - ours)).sum()
    loss = losses.dkd_loss(student, teacher, labels, temperature=temperature, alpha=1.0, beta=8.0)
    assert_close(loss.item(), 16 * expected / 2, rtol=1e-5, atol=0)
    loss.backward()
    assert student.grad.isfinite().all()


def test_rkd_of_one_image_is_nothing():
    student = torch.ones(1, 4, requires_grad=True)
    loss = losses.rkd_distance_loss(student, torch.ones(1, 3)) + losses.rkd_angle_loss(student, torch.ones(1, 3))
    loss.backward()
    assert loss == 0
    assert torch.equal(student.grad, torch.zeros(1, 4))


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

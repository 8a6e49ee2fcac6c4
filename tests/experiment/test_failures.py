"""Memory that runs out is one run's failure; a lost device ends the sweep, and leaves the rest to be resumed."""

import contextlib
import weakref

import pytest
import torch

from kdrun.experiment import runner
from kdrun.experiment.attempt import Outcome
from kdrun.experiment.failures import is_device_lost, is_out_of_memory
from kdrun.methods import CE, KD
from kdrun.stopping import DeviceLost


def of_the_allocator() -> Exception:
    """What this torch's own allocator says."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
SHORTAGES = {
    "cpu": of_the_allocator(),
    "cuda": torch.OutOfMemoryError(f"{CUDA}\nSee documentation for Memory Management"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "driver": torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "python": MemoryError(),
}
LOSSES = {
    "accelerator": torch.AcceleratorError(
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"
    ),
    "runtime": RuntimeError("CUDA error: an illegal memory access was encountered"),
}


@contextlib.contextmanager
def raising(error: Exception, method: type = KD, *, epoch: int = 1, step: int = 2, **options: float):
    """Within it this step of a method with these options raises, holding a tensor; yields references to those."""
    held: list[weakref.ref] = []
    forward = method.forward

    def broken(self, batch, teacher):
        if (batch.epoch, batch.step) == (epoch, step) and all(getattr(self, k) == v for k, v in options.items()):
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            raise error
        assert all(reference() is None for reference in held), "the others need that memory"
        return forward(self, batch, teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "forward", broken)
        yield held


def test_only_what_spoils_the_device_loses_it():
    assert all(is_out_of_memory(error) and not is_device_lost(error) for error in SHORTAGES.values())
    assert all(is_device_lost(error) and not is_out_of_memory(error) for error in LOSSES.values())
    for error in (RuntimeError("shapes do not match"), ValueError("CUDA error: x"), OSError("out of memory")):
        assert not is_out_of_memory(error)
        assert not is_device_lost(error)


@pytest.mark.parametrize("kind", ["cpu", "python"])
def test_memory_that_runs_out_fails_one_of_a_group_says_what_to_try_and_is_free_again(lab, kind, monkeypatch):
    freed = []
    monkeypatch.setattr(runner, "free_memory", freed.append)
    specs = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    error = SHORTAGES[kind]
    with raising(error, temperature=2.0) as held:
        failed, other = lab.execute_all(specs)
    assert len(held) == 1
    said = (str(error) or "MemoryError").splitlines()[0]
    assert str(failed) == (
        f"out of memory ({said}). Try a smaller recipe.batch_size (it is 16), a larger "
        "recipe.accumulate (it is 1), or runtime.sweep=one_by_one (2 students were trained together)."
    )
    assert isinstance(failed, MemoryError)
    assert freed == [torch.device("cpu")]
    run = lab.run(specs[0])
    assert (run.status()["state"], run.status()["error"]) == ("failed", f"MemoryError: {failed}")
    assert "in broken" in (run.directory / "kdrun.log").read_text(), "where it was"
    assert lab.bits(other.run) == lab.alone(specs[1])
    again = lab.execute(specs[0])
    assert lab.bits(again.run) == lab.alone(specs[0])


def test_alone_it_is_not_told_to_go_alone_and_the_sweep_goes_on(lab):
    specs = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    with raising(SHORTAGES["cpu"], temperature=2.0):
        failed, other = lab.execute_all(specs, sweep="one_by_one")
    assert str(failed).endswith("Try a smaller recipe.batch_size (it is 16), a larger recipe.accumulate (it is 1).")
    assert isinstance(other, Outcome)


def test_a_lost_device_fails_one_run_and_leaves_the_others_to_be_resumed(lab):
    group = [lab.taught(temperature=2.0), lab.taught(temperature=8.0)]
    later = lab.plain(seed=1)
    told = r"computes no more \(CUDA error: [^\n]*\): .*/kd-\w+ failed, the rest is pending$"
    with raising(LOSSES["accelerator"], temperature=2.0), pytest.raises(DeviceLost, match=told):
        lab.execute_all([*group, later])
    assert [lab.run(spec).status()["state"] for spec in group] == ["failed", "interrupted"]
    assert len(lab.run(group[1]).rows()) == 1, "its first epoch is kept"
    assert not lab.run(later).directory.exists()
    for ended in lab.execute_all([*group, later]):
        assert lab.bits(ended.run) == lab.alone(ended.run.spec)


def test_a_device_lost_to_a_teacher_leaves_its_student_unbegun(lab):
    with raising(LOSSES["runtime"], CE), pytest.raises(DeviceLost):
        lab.execute(lab.taught())
    assert lab.run(lab.teacher).status()["state"] == "failed"
    assert not lab.run(lab.taught()).directory.exists()


def test_a_command_ends_with_its_device_and_tells_it_once(kdrun, here, capsys):
    tiny = ("dataset=synthetic", "student=mlp", "teacher=none", "method=ce", "recipe.epochs=2", "runtime.device=cpu")
    words = ("-m", *tiny, "seed=0,1,2", "runtime.sweep=one_by_one")
    with raising(LOSSES["accelerator"], CE, epoch=0, step=0), pytest.raises(SystemExit) as ended:
        kdrun(*words)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kdrun: the device computes no more (CUDA error: device-side assert triggered): outputs/")
    assert line.endswith("failed, the rest is pending; the same command resumes all of it")
    assert len(list(here.glob("outputs/runs/*/*/*"))) == 1
    assert kdrun("ls", "--state", "failed")[1][-1] == "1 run"
    assert kdrun(*words)[0] == 0

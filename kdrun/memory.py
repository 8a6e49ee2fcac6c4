"""How much memory is free."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def free_bytes() -> int:
    """What a process can still allocate without swapping, within the limits of its control groups (cgroup v2).

    All of the memory where the system does not report what is free (macOS).
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    return min([free, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What each control group of this process that has a limit leaves of it."""
    try:
        membership = _MEMBERSHIP.read_text()
    except OSError:
        return []
    names = [line.removeprefix("0::/") for line in membership.splitlines() if line.startswith("0::/")]
    left = []
    for group in (place for name in names for place in (_CGROUPS / name, *(_CGROUPS / name).parents)):
        try:
            limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
            fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # the root group has no limit, and directories above it are no groups
            continue
        if limit.strip() != "max":
            left.append(int(limit) - int(used) + int(fields["inactive_file"]))
    return left

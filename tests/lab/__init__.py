"""The test lab: real systemd, sshd and Nix on guests that really reboot (see docs/testing.md)."""

from ._system import LabError
from .lab import Lab

__all__ = ["Lab", "LabError"]

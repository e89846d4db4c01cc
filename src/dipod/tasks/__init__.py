"""What a policy is trained on."""

from dipod.tasks.protocol import Problems, Task

__all__ = ["Problems", "Task"]

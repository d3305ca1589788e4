"""vLLM's CPU platform with adapters computed by :mod:`.cpu_adapters`: a plugin of vLLM, found by its entry point.

On other devices, and where vLLM takes another platform for the CPU, nothing changes.
"""

from __future__ import annotations

from vllm.platforms import cpu_platform_plugin
from vllm.platforms.cpu import CpuPlatform

_BUILT_IN = "vllm.platforms.cpu.CpuPlatform"


def plugin() -> str | None:
    """What vLLM asks of a plugin of the group ``vllm.platform_plugins``: the platform to take, or None."""
    return f"{__name__}.GroupedCpuPlatform" if cpu_platform_plugin() == _BUILT_IN else None


class GroupedCpuPlatform(CpuPlatform):
    """The built-in platform, with other arithmetic for adapters."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """Where vLLM finds that arithmetic."""
        return "inference_workers.cpu_adapters.GroupedPunicaWrapper"

"""What an operator can set: each setting defined once, and read from flags, variables, a TOML file, in this order.

    setting     name, default, help, unit, range, place in the file, whether a reload changes it   definition.py
    settings    all of them, and what cannot work together                                         settings.py
    models      what is served: targets, options, pins                                             models.py
    file        inferd.toml, with the line of each key and of each mistake                         file.py, lines.py
    read        from all that was said to Settings, and where each comes from                      read.py

There are few, because what can be learned or follows from the machine is no setting.
"""

from __future__ import annotations

from .addresses import DEFAULT_WEB, web_address, web_url
from .definition import MIB, Setting
from .models import BUILT_IN, ModelConfig
from .settings import SETTINGS, Contradiction, Settings

__all__ = [
    "BUILT_IN",
    "DEFAULT_WEB",
    "MIB",
    "SETTINGS",
    "Contradiction",
    "ModelConfig",
    "Setting",
    "Settings",
    "web_address",
    "web_url",
]

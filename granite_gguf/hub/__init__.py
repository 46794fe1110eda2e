"""Models from the Hugging Face Hub, in its own cache.

    name → names.parse_name → repository (which files, which commit) → names.choose_file
         → download (resumed, verified) → a path in the cache

Only ``repository``, ``download``, ``faults`` and ``cached`` import huggingface_hub, which takes
longer than the rest of the command line; nothing imports them before they are needed.
"""

from granite_gguf.hub.find import find_model
from granite_gguf.hub.names import HubName, parse_name

__all__ = ["HubName", "find_model", "parse_name"]

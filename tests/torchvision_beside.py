"""torchvision from a folder beside the environment, for tests in a process that is started for them.

    LLAVAKIT_TEST_TORCHVISION=FOLDER python -m pytest tests/processing

With torchvision, transformers' image processors resize by it and no longer by PIL, so that pixels are others. The wheel of the
package index is built for CUDA: beside a torch for CPUs its compiled operators (for detection) do not load, and it asks for
their names when it is imported. They are declared here and never called; what resizes is written in torch.
"""

import re
import sys

import torch


def put_on_path(folder: str) -> None:
    """Make `import torchvision` work, before transformers looks for it.

    Raises:
        ImportError: There is no torchvision in the folder.
    """
    sys.path.insert(0, folder)
    declared = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            import torchvision  # noqa: F401  # as transformers will

            _KEPT.append(declared)
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            declared.define(f"{missing[1]}(Tensor boxes) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]


_KEPT: list[torch.library.Library] = []  # a library takes its operators with it when it goes

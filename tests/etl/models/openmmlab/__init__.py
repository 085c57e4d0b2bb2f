"""Tests of the model set auglift; they need the extra `openmmlab` and skip without it.

`MARKS` goes to every module: the authors' packages warn about their own use of deprecated interfaces.
"""

from __future__ import annotations

import pytest

MARKS = [
    pytest.mark.openmmlab,
    pytest.mark.timeout(600),  # the first test of a module builds its networks
    pytest.mark.filterwarnings("ignore::FutureWarning:mmdet"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
    pytest.mark.filterwarnings("ignore:The metainfo config file:UserWarning"),
]

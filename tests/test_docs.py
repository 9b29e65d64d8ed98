import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["tutorial", "models"])
def test_the_page_runs(page, tmp_path):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if "import keras_hub" in text:
        pytest.importorskip("keras_hub")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert "tfc.swap(" in code and "tfc.to_tflite(" in code
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

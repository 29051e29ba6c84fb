"""Draw docs/images/demo.svg: run the demo and record what it really prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("demo.svg")
COLUMNS = 104
WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> int:
    result = subprocess.run(
        [sys.executable, "-m", "weighbridge.cli.main", "demo"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"},
    )
    if result.returncode != 0:
        sys.stderr.write(result.stderr)
        return result.returncode
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text("$ make demo", style="bold"))
        console.print(Text.from_ansi(result.stdout))
        drawn = console.export_svg(title="weighbridge demo")
    # The picture must not fetch a font from anywhere.
    PICTURE.write_text(WEB_FONT.sub("", drawn).replace("Fira Code", "monospace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

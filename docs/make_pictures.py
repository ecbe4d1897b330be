"""Makes the README's picture: TensorBoard after ``configs/quickstart.yaml``, in headless Chromium.

python docs/make_pictures.py            # needs chromium on the PATH
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

DOCS = Path(__file__).parent
SIZE = (1280, 900)
# Seconds that TensorBoard may take to answer.
PATIENCE = 60


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def screenshot(url: str, path: Path, folder: Path) -> None:
    """Saves what Chromium shows of a page that draws itself."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("There is no chromium: install it (Debian: apt-get install chromium).")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    profile = f"--user-data-dir={folder / 'profile'}"
    window = f"--window-size={SIZE[0]},{SIZE[1]}"
    # Virtual time lets the page's timers and animations run out before the picture is taken.
    subprocess.run(
        [chromium, *quiet, profile, window, "--virtual-time-budget=30000", f"--screenshot={path}", url], check=True
    )


def main() -> None:
    """Runs the quickstart, starts TensorBoard on it and takes its picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = DOCS.parent / "configs" / "quickstart.yaml"
        subprocess.run([sys.executable, "-m", "cifar_lit", "fit", "--config", str(recipe)], cwd=folder, check=True)
        port = free_port()
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", "lightning_logs", "--port", str(port)]
        board = subprocess.Popen([*command, "--host", "127.0.0.1", "--load_fast=false"], cwd=folder)
        try:
            url = f"http://127.0.0.1:{port}/"
            for _ in range(PATIENCE):
                try:
                    urllib.request.urlopen(url, timeout=1).close()
                    break
                except OSError:
                    time.sleep(1)
            # Time to read the run's files.
            time.sleep(5)
            screenshot(f"{url}#scalars&_smoothingWeight=0", DOCS / "tensorboard.png", folder)
        finally:
            board.terminate()


if __name__ == "__main__":
    main()

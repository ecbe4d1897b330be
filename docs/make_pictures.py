"""Makes the README's pictures from a run of ``configs/quickstart.yaml``: TensorBoard's pages, and the report.

pip install -c constraints.txt -e ".[test]" && python docs/make_pictures.py     # needs chromium on the PATH
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent
WIDTH, HEIGHT = 1280, 900
# Seconds that TensorBoard may take to answer, and then to draw.
PATIENCE, DRAWING = 60, 12


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cifar_lit(folder: Path, *args: str) -> None:
    """Runs a command as its user would."""
    subprocess.run([sys.executable, "-m", "cifar_lit", *args], cwd=folder, check=True)


def screenshot(
    browser: Browser, url: str, path: Path, seconds: float, height: int = HEIGHT, section: str | None = None
) -> None:
    """Saves what a page, or a section of it, shows once it has drawn itself."""
    page = browser.new_page(viewport={"width": WIDTH, "height": height})
    page.goto(url)
    page.wait_for_timeout(1000 * seconds)
    (page if section is None else page.locator(section)).screenshot(path=path)
    page.close()


def main() -> None:
    """Runs the quickstart and `explain`, and takes pictures of what they leave."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("There is no chromium: install it (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        # By a path that is the same everywhere: the report shows the command.
        shutil.copytree(DOCS.parent / "configs", folder / "configs")
        cifar_lit(folder, "fit", "--config", "configs/quickstart.yaml")
        cifar_lit(folder, "explain", "--output_dir", "explain")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        report = (folder / "explain" / "report.html").as_uri()
        screenshot(browser, report, DOCS / "report.png", 1, height=1220)
        # So high that it need not scroll, for what stays in view would hide something.
        screenshot(browser, report, DOCS / "report_errors.png", 1, height=5000, section="#errors")
        port = free_port()
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", "lightning_logs", "--port", str(port)]
        options = ["--host", "127.0.0.1", "--load_fast=false", "--samples_per_plugin", "images=100"]
        board = subprocess.Popen([*command, *options], cwd=folder)
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
            screenshot(browser, f"{url}#scalars&_smoothingWeight=0", DOCS / "tensorboard.png", DRAWING)
            screenshot(browser, f"{url}#images", DOCS / "panels.png", DRAWING, height=1900)
        finally:
            board.terminate()
            browser.close()


if __name__ == "__main__":
    main()

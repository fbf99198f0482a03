import shutil
from pathlib import Path

import pytest

import otrain_train  # noqa: F401  (before Keras: it says which backend, and how much TensorFlow logs)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is needed to look at pages in a browser")
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("there is no Chromium to look at pages in")
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()

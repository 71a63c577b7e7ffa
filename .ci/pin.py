"""Pin the images that are pulled, by the digest that the registry gives for their tag.

    python .ci/pin.py            # write the digests of now into Dockerfile and docker-compose.yaml
    python .ci/pin.py --check    # fail, naming what is not pinned

A digest comes from a registry alone, by `docker buildx imagetools inspect`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FILES = ("Dockerfile", "docker-compose.yaml")
# A tag with or without a digest; what is built here has none.
IMAGE = re.compile(
    r"^(?P<place>FROM |\s+image: )(?P<tag>(?!evergreen:)[\w./-]+:[\w.-]+)(?P<digest>@\S+)?", re.M
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def unpinned(root: Path) -> list[str]:
    """Return the images without a digest, and those with something else in its place."""
    return sorted(
        {
            f"{name}: {found['tag']}"
            for name in FILES
            for found in IMAGE.finditer((root / name).read_text())
            if not DIGEST.fullmatch((found["digest"] or "").removeprefix("@"))
        }
    )


def ask(tag: str) -> str:
    """Return the digest that the registry gives for a tag.

    Raises
    ------
    SystemExit
        It cannot be asked, or says something else.
    """
    command = ["docker", "buildx", "imagetools", "inspect", tag]
    try:
        done = subprocess.run(
            [*command, "--format", "{{.Manifest.Digest}}"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise SystemExit("There is no `docker` here to ask a registry with.") from None
    digest = done.stdout.strip()
    if done.returncode != 0 or not DIGEST.fullmatch(digest):
        raise SystemExit(f"The registry gives no digest for {tag}: {done.stderr.strip() or digest}")
    return digest


def pin(root: Path) -> None:
    """Write the digests of now into the files; all of them, or none."""
    texts = {name: (root / name).read_text() for name in FILES}
    tags = {found["tag"] for text in texts.values() for found in IMAGE.finditer(text)}
    digests = {tag: ask(tag) for tag in sorted(tags)}
    for name, text in texts.items():
        pinned = IMAGE.sub(lambda m: f"{m['place']}{m['tag']}@{digests[m['tag']]}", text)
        (root / name).write_text(pinned)
    print("\n".join(f"{tag} is {digest}" for tag, digest in digests.items()))


if __name__ == "__main__":
    root = Path.cwd()
    if sys.argv[1:] == ["--check"]:
        if missing := unpinned(root):
            raise SystemExit(
                "Not pinned by a digest: " + ", ".join(missing) + ". `make pin` writes digests."
            )
    else:
        pin(root)

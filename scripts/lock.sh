#!/usr/bin/env bash
# Writes requirements.lock, every package that the README's two commands install with the hashes of its files on PyPI, for Python
# 3.10 to 3.13 and every platform, and sbom.cdx.json, the same list in CycloneDX. Run it after constraints.txt or the
# dependencies in pyproject.toml have changed; a test says when. It needs a network and, in the PATH, uv and cyclonedx-py
# (pip install uv cyclonedx-bom).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { uv pip compile --quiet pyproject.toml --extra test -c constraints.txt --universal --python-version 3.10 --no-annotate --no-header "$@"; }

lock --generate-hashes --output-file requirements.lock > /dev/null
lock | grep -v '^--' > requirements.pins
cyclonedx-py requirements requirements.pins --output-reproducible --output-file sbom.cdx.json
rm requirements.pins

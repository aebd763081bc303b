"""Takes NiiVue, the viewer of volumes in the browser, from npm's registry into medseg3d/viewer/page/niivue.js.

The file is kept in the repository, so that neither an installation nor a test needs npm. For another version change the
three constants and the licences beside the file, and run this; the tests of the viewer say whether it still shows what
it has to.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

VERSION = "0.69.0"
INTEGRITY = "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
"""SHA-512 of the package, as `npm view @niivue/niivue dist.integrity` says it."""

SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of the one file that is taken from it."""

PLACE = Path(__file__).parent.parent / "medseg3d" / "viewer" / "page" / "niivue.js"
PACKAGE = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{VERSION}.tgz"


def main() -> None:
    """Download, compare both sums, write."""
    with urllib.request.urlopen(PACKAGE) as answer:
        package = answer.read()
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != INTEGRITY:
        raise SystemExit(f"{PACKAGE} has another SHA-512 than {INTEGRITY}")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile("package/dist/niivue.umd.js")
        assert member is not None
        script = member.read()
    if hashlib.sha256(script).hexdigest() != SHA256:
        raise SystemExit(f"niivue.umd.js of {VERSION} has another SHA-256 than {SHA256}")
    PLACE.write_bytes(script)
    print(f"{PLACE}: NiiVue {VERSION}, {len(script)} bytes")


if __name__ == "__main__":
    main()

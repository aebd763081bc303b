"""What pyproject.toml cannot say: the wheel holds the bundles, self-contained, in medseg3d/bundles."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # a build in isolation has this folder nowhere

from medseg3d.bundle_folders import write_self_contained  # noqa: E402


class BuildWithBundles(build_py):
    """Beside the modules, the bundles; an editable install finds those of the clone."""

    def run(self) -> None:
        """Copy everything into a folder without what an earlier build left there."""
        package = Path(self.build_lib) / "medseg3d"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        for config in sorted(ROOT.glob("bundles/*/train.json")):
            write_self_contained(config.parent, package / "bundles" / config.parent.name)


setup(cmdclass={"build_py": BuildWithBundles})

"""The one part that pyproject.toml cannot say: the native packet path, which is left out where nothing can build it.

SSTPFARM_SANITIZE=1 builds it with AddressSanitizer and UndefinedBehaviorSanitizer (`make asan`).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
sanitize = SANITIZE if os.environ.get("SSTPFARM_SANITIZE") else []
folder = "sstpfarm/dataplane"
# of _fast.pyx too: the generated C file takes its place among the sources, and only these are in a source distribution
parts = sorted(map(str, [*Path(folder).glob("*.px[di]"), *Path(folder).glob("*.pyx"), *Path(folder).glob("*.h")]))

fast = Extension(
    "sstpfarm.dataplane._fast",
    [f"{folder}/_fast.pyx"],
    depends=parts,
    include_dirs=[folder],
    extra_compile_args=["-O2", *sanitize],
    extra_link_args=sanitize,
)
modules = cythonize([fast], build_dir="build/cython")
for module in modules:  # cythonize forgets it
    module.optional = not sanitize

setup(ext_modules=modules)

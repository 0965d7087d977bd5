"""The scan of the gallery in C: optional, so that an installation without a compiler works too."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "shared.gallery._kernel",
            sources=["shared/gallery/kernel/module.c"],
            depends=[str(path) for path in Path("shared/gallery/kernel").glob("*.h")],
            # -ffp-contract=off: equal results on every processor, so no fused multiply-add where
            # none is written. -fno-wrapv: Python's own flags would keep loops from vectorising.
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-wrapv", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

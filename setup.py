"""The gallery's scan in C. It is optional: an installation without a compiler works too."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "shared.gallery._kernel",
            sources=["shared/gallery/kernel/module.c"],
            depends=[str(path) for path in Path("shared/gallery/kernel").glob("*")],
            # -ffp-contract=off: equal results on every processor, so no fused multiply-add that
            # the code does not have. -fno-wrapv: with Python's own flags loops do not vectorise.
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-wrapv", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

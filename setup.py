"""The scan of the gallery in C: optional, so that an installation without a compiler works too."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "match_server.gallery._kernel",
            sources=["match_server/gallery/kernel.c"],
            depends=["match_server/gallery/products.h"],
            # Equal results on every processor: no fused multiply-add where none is written.
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
)

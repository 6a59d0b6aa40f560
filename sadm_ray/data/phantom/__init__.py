"""Studies that are drawn instead of scanned, whose truth is known: a beating heart, an ageing brain."""

from sadm_ray.data.phantom.study import PHANTOM_LAYOUTS, write_phantom

__all__ = ["PHANTOM_LAYOUTS", "write_phantom"]

"""sadm-ray: sequence-aware diffusion for longitudinal 3D scans, on Ray.

Implements SADM (Yoon et al., IPMI 2023). Importing this package imports nothing heavy.
"""

__version__ = "0.1.0"

"""Second derivatives of the loss with respect to kernels, and second moments of layer inputs."""

from tfcompress.measure.curvature import exact, fisher, gauss_newton, gauss_newton_exact, hutchinson
from tfcompress.measure.kronecker import kronecker
from tfcompress.measure.obd_recursion import obd_recursion

__all__ = [
    "exact",
    "fisher",
    "gauss_newton",
    "gauss_newton_exact",
    "hutchinson",
    "kronecker",
    "obd_recursion",
]

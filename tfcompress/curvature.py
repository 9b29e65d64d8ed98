"""Second derivatives of the loss with respect to kernels, and second moments of layer inputs."""

from tfcompress.measure.curvature import exact as exact
from tfcompress.measure.curvature import fisher as fisher
from tfcompress.measure.curvature import gauss_newton as gauss_newton
from tfcompress.measure.curvature import gauss_newton_exact as gauss_newton_exact
from tfcompress.measure.curvature import hutchinson as hutchinson
from tfcompress.measure.kronecker import kronecker as kronecker
from tfcompress.measure.obd_recursion import obd_recursion as obd_recursion

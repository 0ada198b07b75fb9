"""The names of torch's functions that compute every position for itself.

`tests/torch/frontend/test_elementwise.py` finds them by experiment, and fails where one is missing.
"""

BINARY = """
    sub rsub subtract mul multiply div divide true_divide floor_divide truediv floordiv pow
    float_power maximum minimum fmax fmin fmod remainder isub imul itruediv ifloordiv ipow
    atan2 arctan2 logaddexp logaddexp2 hypot xlogy copysign nextafter ldexp heaviside gcd lcm
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    and_ or_ xor lshift rshift iand ior ixor ilshift irshift imod mod
    logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
    bitwise_left_shift bitwise_right_shift lerp addcmul addcdiv igamma igammac complex polar
    special_gammainc special_gammaincc special_xlog1py special_xlogy special_zeta
    special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
    special_chebyshev_polynomial_w special_shifted_chebyshev_polynomial_t
    special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v
    special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h
    special_hermite_polynomial_he special_laguerre_polynomial_l special_legendre_polynomial_p
"""
"""Of two arrays, or of an array and a number."""

UNARY = """
    relu relu6 hardtanh elu selu celu leaky_relu rrelu gelu silu mish hardswish hardsigmoid sigmoid
    tanh softplus logsigmoid log_sigmoid softsign hardshrink softshrink tanhshrink threshold
    exp exp2 expm1 log log2 log10 log1p logit sqrt rsqrt square reciprocal
    abs absolute neg negative sign sgn signbit round floor ceil trunc fix frac
    clamp clip clamp_min clamp_max nan_to_num deg2rad rad2deg
    sin cos tan sinh cosh asin acos atan asinh acosh atanh sinc
    arcsin arccos arctan arcsinh arccosh arctanh
    erf erfc erfinv lgamma digamma polygamma mvlgamma i0
    logical_not invert bitwise_not isnan isinf isfinite isneginf isposinf isreal
    zeros_like ones_like full_like zero fill alpha_dropout feature_alpha_dropout
    angle real imag conj conj_physical
    special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
    special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2
    special_expit special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e
    special_log1p special_log_ndtr special_logit special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
    special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round
    special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_sinc
    special_spherical_bessel_j0
    timm.layers.activations_me.HardMishAutoFn timm.layers.activations_me.HardSigmoidAutoFn
    timm.layers.activations_me.HardSwishAutoFn timm.layers.activations_me.MishAutoFn
    timm.layers.activations_me.SwishAutoFn transformers.models.bloom.modeling_bloom.GeLUFunction
    transformers.models.recurrent_gemma.modeling_recurrent_gemma.SqrtBoundDerivative
"""
"""Of one array; further arrays, as bounds of clamp, are broadcast as well."""

SAME = """
    contiguous clone detach to float double half bfloat16 bool byte char short int long
    cfloat cdouble chalf type type_as cpu cuda requires_grad_ positive resolve_conj resolve_neg
    detach_copy alias_copy
    dropout dropout1d dropout2d dropout3d identity alias
    torchvision.ops.stochastic_depth.stochastic_depth
"""
"""The same array, perhaps of another type."""

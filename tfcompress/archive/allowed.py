"""What an archive may name without the caller's word for it: nothing here runs code or reads files.

Layers that hold functions (`Lambda`), files (`TFSMLayer`), other frameworks' modules or
vocabularies are missing on purpose, and so is what only training uses.
"""

LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention AutoContrast Average AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D
    Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot
    Dropout ELU EinsumDense Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention HashedCrossing
    Hashing Identity InputLayer LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxPooling1D
    MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MultiHeadAttention Multiply
    Normalization PReLU Permute RMSNormalization RNN RandomBrightness RandomContrast RandomCrop
    RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
    RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram SeparableConv1D
    SeparableConv2D SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D
    SpatialDropout3D SpectralNormalization StackedRNNCells Subtract TimeDistributed
    UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
"""
INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal
    LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform STFT
    STFTInitializer TruncatedNormal VarianceScaling Zeros
"""
CLASSES = {  # {module: names}, as a config writes them
    "keras": "Sequential Model DTypePolicy",
    "keras.models": "Sequential Model",
    "keras.src.models.functional": "Functional",
    "keras.src.applications.convnext": "LayerScale",
    "keras.dtype_policies": "DTypePolicyMap QuantizedDTypePolicy QuantizedFloat8DTypePolicy",
    "keras.quantizers": "AbsMaxQuantizer Int4QuantizationConfig Int8QuantizationConfig",
    "keras.layers": LAYERS,
    "keras.initializers": INITIALIZERS,
    "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
    "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
}
CLASSES = {module: frozenset(names.split()) for module, names in CLASSES.items()}

FUNCTIONS = """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
"""
FUNCTIONS = {"keras.activations": frozenset(FUNCTIONS.split())}

# Modules of bare operations, `x + y`; those that call a function of the caller's are refused.
OPERATIONS = ("core", "einops", "image", "linalg", "math", "nn", "numpy")
OPERATIONS = frozenset(f"keras.src.ops.{name}" for name in OPERATIONS)
CALLING = "AssociativeScan Cond ForiLoop Map Scan Switch VectorizedMap WhileLoop"
CALLING = frozenset(CALLING.split())
LISTING = {"ArraySplit": "indices_or_sections", "Split": "indices_or_sections", "Unstack": "num"}
DERIVING = "Normalization"  # computes arrays as large as its input as soon as it is built
LONGEST_LIST = 1024  # outputs that these make: each is an object of its own

OURS = ("tfcompress.layers.", "tfcompress.rewriting.", "tfcompress.graph.")  # modules of layers
SWAPPED = "tfcompress>Swapped"  # holds a plain entry and entries of its replaced parts

"""Which fields Caffe's messages have, of which kind, and what they are where a file does not say; as in caffe.proto."""

from __future__ import annotations

from collections.abc import Mapping

from stantune.images.prototxt.syntax.schema import Enum, Of, Plain, Shape


def _fields(**kinds: Of) -> dict[str, Of]:
    return kinds


def _said(kind: Plain | Enum | Shape, *names: str) -> dict[str, Of]:
    """Return fields of one kind without a default."""
    return {name: Of(kind) for name in names}


INT, UINT, FLOAT, BOOL, STRING = Of("int"), Of("uint"), Of("float"), Of("bool"), Of("string")
ANYTHING = Of("anything")
STRINGS, FLOATS = Of("string", repeated=True), Of("float", repeated=True)
UINTS, INTS = Of("uint", repeated=True), Of("int", repeated=True)


def _enum(*names: str) -> Enum:
    return Enum({name: number for number, name in enumerate(names)})


PHASE = _enum("TRAIN", "TEST")
# The last two are of a fork; it says nothing of what is computed.
_ENGINE = Of(_enum("DEFAULT", "CAFFE", "CUDNN", "MKL2017", "MKLDNN"))
_RULE = Shape(
    "NetStateRule",
    _fields(phase=Of(PHASE), min_level=INT, max_level=INT, stage=STRINGS, not_stage=STRINGS),
)
_PARAM = Shape(
    "ParamSpec", _fields(name=STRING, share_mode=ANYTHING, lr_mult=Of("float", 1.0), decay_mult=Of("float", 1.0))
)
FILLER = Shape(
    "FillerParameter",
    _fields(
        type=Of("string", "constant"),
        value=Of("float", 0.0),
        min=Of("float", 0.0),
        max=Of("float", 1.0),
        mean=Of("float", 0.0),
        std=Of("float", 1.0),
        sparse=Of("int", -1),
        variance_norm=Of(_enum("FAN_IN", "FAN_OUT", "AVERAGE"), "FAN_IN"),
    ),
)
_ONE = Of("float", 1.0)
_NO = Of("bool", False)
TRANSFORM = Shape(
    "TransformationParameter",
    _fields(
        scale=_ONE, mirror=_NO, crop_size=Of("uint", 0), mean_file=STRING, mean_value=FLOATS, force_color=_NO,
        force_gray=_NO,
    ),
)  # fmt: skip
_OLD_TRANSFORM = _fields(scale=_ONE, mirror=_NO, crop_size=Of("uint", 0), mean_file=STRING)
_POOL = _enum("MAX", "AVE", "STOCHASTIC")
_AXIS = Of("int", 1)

# By the field of a layer that holds them; those of layers that are taken.
PARAMETERS: Mapping[str, Shape] = {
    "accuracy_param": Shape("AccuracyParameter", _fields(top_k=UINT, axis=INT, ignore_label=INT)),
    "batch_norm_param": Shape(
        "BatchNormParameter",
        _fields(use_global_stats=BOOL, moving_average_fraction=Of("float", 0.999), eps=Of("float", 1e-5)),
    ),
    "concat_param": Shape("ConcatParameter", _fields(axis=_AXIS, concat_dim=Of("uint", 1))),
    "convolution_param": Shape(
        "ConvolutionParameter",
        _fields(
            num_output=UINT, bias_term=Of("bool", True), pad=UINTS, kernel_size=UINTS, stride=UINTS, dilation=UINTS,
            **_said("uint", "pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"), group=Of("uint", 1),
            weight_filler=Of(FILLER), bias_filler=Of(FILLER), engine=_ENGINE, axis=_AXIS, force_nd_im2col=BOOL,
        ),
    ),
    "data_param": Shape(
        "DataParameter",
        _fields(
            source=STRING, batch_size=UINT, rand_skip=UINT, backend=Of(_enum("LEVELDB", "LMDB")), prefetch=UINT,
            force_encoded_color=BOOL, **_OLD_TRANSFORM,
        ),
    ),
    "dropout_param": Shape("DropoutParameter", _fields(dropout_ratio=Of("float", 0.5))),
    "eltwise_param": Shape(
        "EltwiseParameter",
        _fields(operation=Of(_enum("PROD", "SUM", "MAX"), "SUM"), coeff=FLOATS, stable_prod_grad=BOOL),
    ),
    "elu_param": Shape("ELUParameter", _fields(alpha=_ONE)),
    "flatten_param": Shape("FlattenParameter", _fields(axis=_AXIS, end_axis=Of("int", -1))),
    "hdf5_data_param": Shape("HDF5DataParameter", _fields(source=STRING, batch_size=UINT, shuffle=BOOL)),
    "image_data_param": Shape(
        "ImageDataParameter",
        _fields(
            source=STRING, batch_size=Of("uint", 1), rand_skip=UINT, shuffle=BOOL, new_height=UINT, new_width=UINT,
            is_color=BOOL, root_folder=STRING, **_OLD_TRANSFORM,
        ),
    ),
    "inner_product_param": Shape(
        "InnerProductParameter",
        _fields(
            num_output=UINT, bias_term=Of("bool", True), weight_filler=Of(FILLER), bias_filler=Of(FILLER), axis=_AXIS,
            transpose=_NO,
        ),
    ),
    "loss_param": Shape(
        "LossParameter",
        _fields(
            ignore_label=INT, normalization=Of(_enum("FULL", "VALID", "BATCH_SIZE", "NONE"), "VALID"), normalize=BOOL
        ),
    ),
    "lrn_param": Shape(
        "LRNParameter",
        _fields(
            local_size=Of("uint", 5), alpha=_ONE, beta=Of("float", 0.75),
            norm_region=Of(_enum("ACROSS_CHANNELS", "WITHIN_CHANNEL"), "ACROSS_CHANNELS"), k=_ONE, engine=_ENGINE,
        ),
    ),
    "memory_data_param": Shape(
        "MemoryDataParameter", _fields(batch_size=UINT, channels=UINT, height=UINT, width=UINT)
    ),
    "pooling_param": Shape(
        "PoolingParameter",
        _fields(
            pool=Of(_POOL, "MAX"), **_said("uint", "pad", "pad_h", "pad_w", "kernel_size", "kernel_h", "kernel_w"),
            **_said("uint", "stride", "stride_h", "stride_w"), engine=_ENGINE, global_pooling=_NO,
            round_mode=Of(_enum("CEIL", "FLOOR"), "CEIL"),
        ),
    ),
    "prelu_param": Shape("PReLUParameter", _fields(filler=Of(FILLER), channel_shared=_NO)),
    "relu_param": Shape("ReLUParameter", _fields(negative_slope=Of("float", 0.0), engine=_ENGINE)),
    "scale_param": Shape(
        "ScaleParameter",
        _fields(axis=_AXIS, num_axes=_AXIS, filler=Of(FILLER), bias_term=_NO, bias_filler=Of(FILLER)),
    ),
    "sigmoid_param": Shape("SigmoidParameter", _fields(engine=_ENGINE)),
    "softmax_param": Shape("SoftmaxParameter", _fields(engine=_ENGINE, axis=_AXIS)),
    "tanh_param": Shape("TanHParameter", _fields(engine=_ENGINE)),
    "transform_param": TRANSFORM,
}  # fmt: skip
# Those of layers that are refused by their type, which says more than a word on a field.
_OTHERS = (
    "argmax bias clip contrastive_loss crop dummy_data embed exp hdf5_output hinge_loss infogain_loss input log mvn "
    "parameter power python recurrent reduction reshape spp slice swish threshold tile window_data"
)
_ALL_PARAMETERS = {name: Of(shape) for name, shape in PARAMETERS.items()} | {
    f"{name}_param": ANYTHING for name in _OTHERS.split()
}
_OF_ANY_LAYER = _fields(
    name=Of("string", ""), bottom=STRINGS, top=STRINGS, loss_weight=FLOATS, include=Of(_RULE, repeated=True),
    exclude=Of(_RULE, repeated=True), blobs=Of("anything", repeated=True),
)  # fmt: skip
LAYER = Shape(
    "a layer",
    _fields(
        **_OF_ANY_LAYER, type=STRING, phase=Of(PHASE), param=Of(_PARAM, repeated=True),
        propagate_down=Of("bool", repeated=True), **_ALL_PARAMETERS,
    ),
    called="layer",
)  # fmt: skip
# The old syntax, `layers { type: CONVOLUTION … }`: what each type is called today, and its number.
OLD_TYPES = {
    "ABSVAL": ("AbsVal", 35), "ACCURACY": ("Accuracy", 1), "ARGMAX": ("ArgMax", 30), "BNLL": ("BNLL", 2),
    "CONCAT": ("Concat", 3), "CONTRASTIVE_LOSS": ("ContrastiveLoss", 37), "CONVOLUTION": ("Convolution", 4),
    "DATA": ("Data", 5), "DECONVOLUTION": ("Deconvolution", 39), "DROPOUT": ("Dropout", 6),
    "DUMMY_DATA": ("DummyData", 32), "EUCLIDEAN_LOSS": ("EuclideanLoss", 7), "ELTWISE": ("Eltwise", 25),
    "EXP": ("Exp", 38), "FLATTEN": ("Flatten", 8), "HDF5_DATA": ("HDF5Data", 9), "HDF5_OUTPUT": ("HDF5Output", 10),
    "HINGE_LOSS": ("HingeLoss", 28), "IM2COL": ("Im2col", 11), "IMAGE_DATA": ("ImageData", 12),
    "INFOGAIN_LOSS": ("InfogainLoss", 13), "INNER_PRODUCT": ("InnerProduct", 14), "LRN": ("LRN", 15),
    "MEMORY_DATA": ("MemoryData", 29), "MULTINOMIAL_LOGISTIC_LOSS": ("MultinomialLogisticLoss", 16), "MVN": ("MVN", 34),
    "POOLING": ("Pooling", 17), "POWER": ("Power", 26), "RELU": ("ReLU", 18), "SIGMOID": ("Sigmoid", 19),
    "SIGMOID_CROSS_ENTROPY_LOSS": ("SigmoidCrossEntropyLoss", 27), "SILENCE": ("Silence", 36),
    "SOFTMAX": ("Softmax", 20), "SOFTMAX_LOSS": ("SoftmaxWithLoss", 21), "SPLIT": ("Split", 22),
    "SLICE": ("Slice", 33), "TANH": ("TanH", 23), "WINDOW_DATA": ("WindowData", 24), "THRESHOLD": ("Threshold", 31),
}  # fmt: skip
OLD_LAYER = Shape(
    "a layer in the old syntax",
    _fields(
        **_OF_ANY_LAYER, type=Of(Enum({name: number for name, (_, number) in OLD_TYPES.items()})), param=STRINGS,
        blob_share_mode=Of("anything", repeated=True), blobs_lr=FLOATS, weight_decay=FLOATS,
        layer=Of("anything", repeated=True), **_ALL_PARAMETERS,
    ),
    called="layer",
)  # fmt: skip
NET = Shape(
    "a network",
    _fields(
        name=STRING, input=STRINGS, input_shape=Of("anything", repeated=True), input_dim=INTS, force_backward=BOOL,
        state=ANYTHING, debug_info=BOOL, layer=Of(LAYER, repeated=True), layers=Of(OLD_LAYER, repeated=True),
    ),
)  # fmt: skip
SOLVER = Shape(
    "a solver",
    _fields(
        # What trains.
        base_lr=FLOAT, max_iter=INT, lr_policy=STRING, gamma=FLOAT, power=FLOAT, stepsize=INT, stepvalue=INTS,
        momentum=Of("float", 0.0), momentum2=Of("float", 0.999), weight_decay=Of("float", 0.0),
        delta=Of("float", 1e-8), rms_decay=Of("float", 0.99), type=Of("string", "SGD"),
        solver_type=Of(_enum("SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM")),
        regularization_type=Of("string", "L2"), clip_gradients=Of("float", -1.0), iter_size=Of("int", 1),
        # What is refused.
        net_param=ANYTHING, train_net_param=ANYTHING, test_net_param=Of("anything", repeated=True), weights=STRINGS,
        train_state=ANYTHING,
        # What says nothing of the training.
        net=STRING, train_net=STRING, test_net=STRINGS, test_state=Of("anything", repeated=True), test_iter=INTS,
        test_interval=INT, test_compute_loss=BOOL, test_initialization=BOOL, display=INT, average_loss=INT,
        snapshot=INT, snapshot_prefix=STRING, snapshot_diff=BOOL, snapshot_format=Of(_enum("HDF5", "BINARYPROTO")),
        solver_mode=Of(_enum("CPU", "GPU")), device_id=INT, random_seed=Of("long"), debug_info=BOOL,
        snapshot_after_train=BOOL, layer_wise_reduce=BOOL,
    ),
)  # fmt: skip

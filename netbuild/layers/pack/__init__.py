"""The pack: modules that people insert into networks, each written from its paper, one family or a part of one a file.

Rows use their names. The classes are imported when a row first uses one, so this file holds names alone.
"""

# Family, file of this folder, names of its modules.
FAMILIES: dict[str, dict[str, str]] = {
    "channel attention": {
        "channel_attention": "AFGCAttention ChannelAttention_HSFPN ECAAttention EffectiveSEModule "
        "EfficientChannelAttention GatherExcite NAMAttention ParNetAttention SEAttention SKAttention SOCA",
        "context_attention": "ContextAggregation ContextBlock2d GlobalContext",
        "seam": "MultiSEAM SEAM",
    },
    "spatial attention": {
        "spatial_attention": "SimAM SpatialGroupEnhance",
        "large_kernel_attention": "CAA LSKA LSKBlock LSKblock SegNext_Attention",
    },
    "mixed attention": {
        "mixed_attention": "BAMBlock CPCA GAMAttention GAM_Attention MLCA ParallelPolarizedSelfAttention "
        "SequentialPolarizedSelfAttention ShuffleAttention",
        "coordinate_attention": "CA CoordAtt ELA EMA MPCA TripletAttention",
        "cbam": "CBAM_mlp ResBlock_CBAM",
        "token_mixing": "FocalModulation S2Attention ScConv",
    },
    "transformer": {
        "transformer": "CoTAttention CrissCrossAttention DoubleAttention MHSA MobileViTAttention",
        "deformable_attention": "DAttention",
        "local_attention": "ACmix EfficientAttention MultiDilatelocalAttention",
        "window_attention": "BiLevelRoutingAttention BiLevelRoutingAttention_nchw CascadedGroupAttention "
        "LocalWindowAttention",
    },
    "convolution": {
        "convolution": "CBH ConvBNLayer CoordConv CoordConv_paddle Dense SAConv2d SCConv SimConv conv_bn_hswish",
        "deformable": "C2f_DCN C2f_DCNv2 C3_DCNv2 C3k2_DCNv2 DCNV3_YOLO DCNv2 DCNv3 LDConv",
        "dynamic_convolution": "C2f_ODConv C3_ODConv C3k2_ODConv DynamicConv GhostModule_Dynamic Involution ODConv2d "
        "ODConv2d_bnact",
        "gsconv": "GSBottleneck GSConv VoVGSCSP VoVGSCSPC VoVGSCSP_yoloair",
        "receptive_field": "C2f_RFAConv C2f_RFCAConv C2f_RFCBAMConv C3_RFAConv C3_RFCAConv C3_RFCBAMConv C3k2_RFAConv "
        "C3k2_RFCAConv C3k2_RFCBAMConv RFAConv RFCAConv RFCBAMConv",
        "wavelet": "WTConv2d",
    },
    "re-parameterised": {
        "diverse_branch": "C2f_DBB C3_DBB C3k2_DBB DiverseBranchBlock",
        "reparameterised": "BepC3 BottleRep MobileOne MobileOneBlock MobileOneBlock_official QARepVGGBlock RepBlock "
        "RepVGGBlock RepVGGBlockv6",
    },
    "pooling and pyramids": {
        "pyramid": "ASPP BasicRFB GhostSPPCSPC SPPCSP SPPCSPC_group SPPFCSPC SimCSPSPPF SimSPPF",
        "large_kernel_attention": "SPPF_LSKA",
    },
    "sampling": {
        "downsampling": "Conv_maxpool DWConvblock LAWDS SPDConv Stem V7DownSampling space_to_depth",
        "upsampling": "CARAFE CARAFE_yoloair DySample EUCB",
        "wavelet": "HWD",
    },
    "fusion": {
        "asff": "ASFFV5",
        "asf": "ScalSeq Zoom_cat asf_attention_model",
        "fusion": "ADD AdvPoolFusion BiFPN_Add2 BiFPN_Add3 BiFusion CGAFusion Chuncat Concat_bifpn Foldcut Fusion "
        "PyramidPoolAgg SDI Shortcut",
        "gold": "IFM InjectionMultiSum_Auto_pool SimFusion_3in SimFusion_4in TopBasicLayer",
    },
    "block": {
        "kindle": "KindleConv KindleDWConv MV2Block MobileViTBlock",
        "convnext": "C3HB CNeB ConvNeXt ConvNeXtV2Block ConvNextBlock HorBlock HorNet gnconv",
        "csp": "BottleneckCSP2 BottleneckCSPA BottleneckCSPB BottleneckCSPC BottleneckCSPF C3C2 CSPStage GhostCSPA "
        "GhostCSPB GhostCSPC Res ResCSPA ResCSPB ResCSPC ResXCSPA ResXCSPB ResXCSPC",
        "csp_context": "BoT3 C3GC C3RFEM CoT3",
        "efficient": "EfficientVitBlock GhostBottleneck_v2 GhostModuleV2 LiteMLA RepViTBlock iRMB",
        "context_guided": "ContextGuidedBlock ContextGuidedBlock_Down",
        "faster": "C2f_Faster C2f_Faster_CGLU C3_Faster C3_Faster_CGLU C3k2_Faster C3k2_Faster_CGLU ConvolutionalGLU "
        "Faster_Block Faster_Block_CGLU Partial_conv3",
        "large_kernel": "DWR DilatedReparamBlock InceptionDWConv2d MetaNeXtBlock Star_Block UniRepLKNetBlock",
        "mobile": "DepthSepConv ES_Bottleneck LC_Block MBConvBlock MobileNetV3_InvertedResidual ShuffleNetV2_Model "
        "Shuffle_Block mobilev3_bneck",
        "ppyoloe": "CSPResNet CSPResNet_CBS PPConvBlock ResSPP",
        "rcs": "RCSOSA",
        "swin": "C3STR SwinTransformer SwinTransformerLayer",
        "wrapped_blocks": "C2f_DWR C2f_RVB C2f_RVB_EMA C2f_RVB_SE C2f_Star C2f_UniRepLKNetBlock C2f_iRMB C3_DWR "
        "C3_RVB C3_RVB_EMA C3_RVB_SE C3_Star C3_UniRepLKNetBlock C3_iRMB C3k2_DWR C3k2_RVB C3k2_RVB_EMA C3k2_RVB_SE "
        "C3k2_Star C3k2_UniRepLKNetBlock C3k2_iRMB",
    },
}

# Other names of modules in public files.
ALIASES: dict[str, str] = {
    "A2Attention": "DoubleAttention",
    "AKConv": "LDConv",
    "BAM": "BAMBlock",
    "BRA": "BiLevelRoutingAttention",
    "BiFPN_Concat": "Concat_bifpn",
    "BiFPN_Concat2": "Concat_bifpn",
    "BiFPN_Concat3": "Concat_bifpn",
    "CABlock": "ContextAggregation",
    "CloAtt": "EfficientAttention",
    "CloAttention": "EfficientAttention",
    "Concat_BiFPN": "Concat_bifpn",
    "CoordAttention": "CoordAtt",
    "DBB": "DiverseBranchBlock",
    "DWT": "space_to_depth",
    "ECA": "EfficientChannelAttention",
    "EffectiveSE": "EffectiveSEModule",
    "EffectiveSELayer": "EffectiveSEModule",
    "GAM": "GAM_Attention",
    "GlobalContextBlock": "GlobalContext",
    "MSCA": "SegNext_Attention",
    "MSCAAttention": "SegNext_Attention",
    "MSDA": "MultiDilatelocalAttention",
    "NAM": "NAMAttention",
    "PSA_p": "ParallelPolarizedSelfAttention",
    "PSA_s": "SequentialPolarizedSelfAttention",
    "RepVGGBlock_v6": "RepVGGBlockv6",
    "SE": "SEAttention",
    "SELayer": "SEAttention",
    "SGE": "SpatialGroupEnhance",
    "attention_model": "asf_attention_model",
    "conv_bn_relu_maxpool": "Conv_maxpool",
}

# Names that forks also give to another form of the module, whose rows begin with the channels out (WIDTH_FORMS), or
# with the channels in and out.
WIDTH_FORMS = {"CARAFE": "CARAFE_yoloair", "CBAM": "CBAM_mlp"}
TWO_WIDTH_FORMS = {"CoordConv": "CoordConv_paddle", "GAM": "GAMAttention", "GAM_Attention": "GAMAttention"}

# Arguments and shapes (channels, height, width) of the sources in an example, where modules need particular ones.
_PYRAMID = ((64, 32, 32), (96, 16, 16), (128, 8, 8))  # the finest first
EXAMPLES: dict[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    "ASFFV5": ("0, 0.125", ((32, 32, 32), (64, 16, 16), (128, 8, 8))),
    "BiFusion": ("64", ((64, 8, 8), (48, 16, 16), (32, 32, 32))),
    "CascadedGroupAttention": ("", ((64, 7, 7),)),
    "ConvNeXt": ("96", ((3, 32, 32),)),
    "DilatedReparamBlock": ("7", ((64, 32, 32),)),
    "InjectionMultiSum_Auto_pool": ("64, [64, 32], 0", ((48, 16, 16), (96, 32, 32))),
    "MobileNetV3_InvertedResidual": ("64, 128", ((64, 32, 32),)),
    "ResBlock_CBAM": ("16", ((64, 32, 32),)),
    "ScalSeq": ("64", _PYRAMID),
    "Zoom_cat": ("", _PYRAMID),
    "mobilev3_bneck": ("64, 128", ((64, 32, 32),)),
}


def list_paths() -> dict[str, str]:
    """Return "module:Class" of every name that rows may use, other names included."""
    paths = {
        name: f"netbuild.layers.pack.{file}:{name}"
        for files in FAMILIES.values()
        for file, names in files.items()
        for name in names.split()
    }
    return {**paths, **{alias: paths[name] for alias, name in ALIASES.items()}}


def list_names(family: str | None = None) -> list[str]:
    """List the names of the modules, or of those of a family, without their other names."""
    families = FAMILIES.values() if family is None else [FAMILIES[family]]
    return [name for files in families for names in files.values() for name in names.split()]

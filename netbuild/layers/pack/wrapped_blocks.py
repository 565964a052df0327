"""C3, C2f and C3k2 with blocks of light and large-kernel networks."""

from netbuild.layers.pack.efficient import RepViTBlock, RepViTBlockEMA, RepViTBlockPlain, iRMB
from netbuild.layers.pack.large_kernel import DWR, Star_Block, UniRepLKNetBlock
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper


class C3_RVB(C3Wrapper):
    """C3 of n RepViTBlocks without channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlockPlain


class C2f_RVB(C2fWrapper):
    """C2f of n RepViTBlocks without channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlockPlain


class C3k2_RVB(C3k2Wrapper):
    """C3k2 of n RepViTBlocks without channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlockPlain


class C3_RVB_SE(C3Wrapper):
    """C3 of n RepViTBlocks with a channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlock


class C2f_RVB_SE(C2fWrapper):
    """C2f of n RepViTBlocks with a channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlock


class C3k2_RVB_SE(C3k2Wrapper):
    """C3k2 of n RepViTBlocks with a channel gate: (B, c1, H, W) -> (B, c2, H, W). RepViT, arXiv 2307.09283."""

    block = RepViTBlock


class C3_RVB_EMA(C3Wrapper):
    """C3 of n RepViTBlocks with EMA: (B, c1, H, W) -> (B, c2, H, W). arXiv 2307.09283 and 2305.13563."""

    block = RepViTBlockEMA


class C2f_RVB_EMA(C2fWrapper):
    """C2f of n RepViTBlocks with EMA: (B, c1, H, W) -> (B, c2, H, W). arXiv 2307.09283 and 2305.13563."""

    block = RepViTBlockEMA


class C3k2_RVB_EMA(C3k2Wrapper):
    """C3k2 of n RepViTBlocks with EMA: (B, c1, H, W) -> (B, c2, H, W). arXiv 2307.09283 and 2305.13563."""

    block = RepViTBlockEMA


class C3_Star(C3Wrapper):
    """C3 of n Star_Blocks: (B, c1, H, W) -> (B, c2, H, W). StarNet, arXiv 2403.19967."""

    block = Star_Block


class C2f_Star(C2fWrapper):
    """C2f of n Star_Blocks: (B, c1, H, W) -> (B, c2, H, W). StarNet, arXiv 2403.19967."""

    block = Star_Block


class C3k2_Star(C3k2Wrapper):
    """C3k2 of n Star_Blocks: (B, c1, H, W) -> (B, c2, H, W). StarNet, arXiv 2403.19967."""

    block = Star_Block


class C3_iRMB(C3Wrapper):
    """C3 of n iRMB blocks: (B, c1, H, W) -> (B, c2, H, W). EMO, arXiv 2301.01146."""

    block = iRMB


class C2f_iRMB(C2fWrapper):
    """C2f of n iRMB blocks: (B, c1, H, W) -> (B, c2, H, W). EMO, arXiv 2301.01146."""

    block = iRMB


class C3k2_iRMB(C3k2Wrapper):
    """C3k2 of n iRMB blocks: (B, c1, H, W) -> (B, c2, H, W). EMO, arXiv 2301.01146."""

    block = iRMB


class C3_DWR(C3Wrapper):
    """C3 of n DWR blocks: (B, c1, H, W) -> (B, c2, H, W). DWRSeg, arXiv 2212.01173."""

    block = DWR


class C2f_DWR(C2fWrapper):
    """C2f of n DWR blocks: (B, c1, H, W) -> (B, c2, H, W). DWRSeg, arXiv 2212.01173."""

    block = DWR


class C3k2_DWR(C3k2Wrapper):
    """C3k2 of n DWR blocks: (B, c1, H, W) -> (B, c2, H, W). DWRSeg, arXiv 2212.01173."""

    block = DWR


class C3_UniRepLKNetBlock(C3Wrapper):
    """C3 of n UniRepLKNetBlocks of 7x7 kernels: (B, c1, H, W) -> (B, c2, H, W). UniRepLKNet, arXiv 2311.15599."""

    block = UniRepLKNetBlock


class C2f_UniRepLKNetBlock(C2fWrapper):
    """C2f of n UniRepLKNetBlocks of 7x7 kernels: (B, c1, H, W) -> (B, c2, H, W). UniRepLKNet, arXiv 2311.15599."""

    block = UniRepLKNetBlock


class C3k2_UniRepLKNetBlock(C3k2Wrapper):
    """C3k2 of n UniRepLKNetBlocks of 7x7 kernels: (B, c1, H, W) -> (B, c2, H, W). UniRepLKNet, arXiv 2311.15599."""

    block = UniRepLKNetBlock

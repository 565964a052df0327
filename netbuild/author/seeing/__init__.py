"""Pictures of what a network has learnt: kernels, feature maps, curves of activation functions."""

"""What a network has learnt, as pictures: kernels, feature maps, activation curves."""

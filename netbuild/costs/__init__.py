"""What a run on torch's meta device tells: shapes, receptive fields, multiply-adds, memory."""

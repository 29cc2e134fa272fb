"""What one step computes, and nothing besides: features of frozen parts once, scores where there is a label."""

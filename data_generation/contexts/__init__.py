"""What a teacher is told of an image: other people's annotations in, contexts out."""

"""What an evaluation leaves behind, and what a comparison reads."""

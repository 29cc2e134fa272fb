"""What a teacher is asked, from files that a user can edit."""

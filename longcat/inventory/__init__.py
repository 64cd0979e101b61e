"""What is in a workspace: results and half-made ones, what was made from what, what is pinned, and what may go."""

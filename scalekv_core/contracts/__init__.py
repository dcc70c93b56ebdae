"""What a strategy is given and what it answers: interfaces, policies, plans, profiles."""

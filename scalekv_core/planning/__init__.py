"""How much each head may hold, decided before anything is generated: budgets, plans, bytes."""

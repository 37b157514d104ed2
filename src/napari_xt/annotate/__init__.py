"""What people say of predictions: what of it is truth. Knows arrays and tables; knows no Qt and no networks."""

"""What each benchmark is: its model, data, loss, schedule and rules, composed in one file each."""

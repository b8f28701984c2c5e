"""What the administrator wrote: YAML files in, one frozen `model.Policy` out, or every problem at once."""

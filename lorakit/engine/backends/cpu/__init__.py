"""C++ for the CPU: its build, its library, its functions."""

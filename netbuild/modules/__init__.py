"""Find the factory that builds a row's module: registry, model builders, custom modules, trust."""

"""The dock widgets: views that show values and call functions of the plugin; they decide nothing themselves."""

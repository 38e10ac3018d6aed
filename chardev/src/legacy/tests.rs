//! Claims about short forms.

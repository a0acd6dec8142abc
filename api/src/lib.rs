//! Personas: the Docker Engine API as translators from requests to messages.

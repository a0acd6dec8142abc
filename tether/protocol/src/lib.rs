//! What guest and host share: link frames and session, guest RPC, extraConfig codec, configuration models.

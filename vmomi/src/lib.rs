//! The vSphere wire protocol: types, SOAP codec, client session, property collector, datastore HTTP.

"""placeholder"""
class SchemaError(ValueError):
    pass
def value_for(schema, digest):
    return {}
